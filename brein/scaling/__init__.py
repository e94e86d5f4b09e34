"""Beyond one process: requests to several instances of the service, index shards on several machines."""

from brein.scaling.balancer import ROUTES, LoadBalancer, Route
from brein.scaling.config import BalancerConfig, ScalingConfig
from brein.scaling.instance import InstanceStatus, Load
from brein.scaling.routing import RequestType

__all__ = [
    "ROUTES",
    "BalancerConfig",
    "InstanceStatus",
    "Load",
    "LoadBalancer",
    "RequestType",
    "Route",
    "ScalingConfig",
]
