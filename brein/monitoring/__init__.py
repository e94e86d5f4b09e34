"""What the service watches of itself: windows and anomalies, KPIs, alerts, dashboards, the live page."""

from brein.monitoring.alerts import Alerts, Rule
from brein.monitoring.health import TARGETS, Health, Kpi, http_probe
from brein.monitoring.monitor import Alert, PerformanceMonitor, Statistics
from brein.monitoring.service import Monitoring, MonitoringConfig

__all__ = [
    "TARGETS",
    "Alert",
    "Alerts",
    "Health",
    "Kpi",
    "Monitoring",
    "MonitoringConfig",
    "PerformanceMonitor",
    "Rule",
    "Statistics",
    "http_probe",
]
