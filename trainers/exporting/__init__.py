"""Exported models: the graph, the file, and the certificate that both detect the same."""
