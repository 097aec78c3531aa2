"""Chroma's protocol, compared: the same requests to ``chroma run`` and to ``vectorpool serve``, answer by answer."""
