"""A trained system over HTTP: a web page, POST /ask, and OpenAI-compatible chat: `jointrag serve --run NAME`."""
