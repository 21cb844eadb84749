"""The serving layer on a real server: FastAPI's guarantees, logs, metrics, traces, compression."""
