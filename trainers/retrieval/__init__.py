"""How embedding models, late-interaction models and rerankers learn: their data, losses and the one training loop."""
