"""Rerankers of every kind behind one interface; jointrag.Reranker is the way in."""
