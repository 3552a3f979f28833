"""JointRAG: a RAG system whose retriever and agents are trained together."""
