"""The bus: the facade and what it is composed of."""
