"""runtime: how a process lives: settings, bus, worker, telemetry, web; no business."""
