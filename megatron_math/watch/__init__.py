"""What those outside know of a run: its launches, its true progress, alerts, a Prometheus endpoint.

Needs base only: training writes with it, `report` and `status` read with it. No torch.
"""
