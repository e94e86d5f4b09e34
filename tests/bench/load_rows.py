"""Rows as a generator of load would leave them, of services whose times are known."""

import heapq

import numpy as np

from bench.load.requests import ROW


def rows_of(schedule, service_time, late=0.0, status=200):
    """A row for each start; service times, lateness and statuses are one for all, or one for each."""
    rows = np.zeros(len(schedule.starts), ROW)
    rows["intended"] = rows["ready"] = schedule.starts
    rows["start"] = schedule.starts + late
    rows["end"] = rows["start"] + service_time
    rows["status"], rows["query"] = status, -1
    rows["step"] = schedule.step_of(schedule.starts)
    return rows


def queued(schedule, service_times, servers=1, late=0.0):
    """Rows of a service that takes requests in the order they come, as many at once as it has servers."""
    rows = rows_of(schedule, 0.0, late)
    free = [0.0] * servers
    ends = []
    for start, seconds in zip(rows["start"].tolist(), service_times.tolist(), strict=True):
        ends.append(max(start, free[0]) + seconds)
        heapq.heapreplace(free, ends[-1])
    rows["end"] = ends
    return rows
