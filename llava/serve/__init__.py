"""Servers: vLLM with the plugin, the encoder in front of a stock vLLM, and a client of both."""
