"""The Flask retrieval service: `python -m retrieval_server --index PATH`, or `retrieval_server.process.serving`."""
