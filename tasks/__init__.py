"""One thin Prefect task per stage, and the process each training stage runs in."""
