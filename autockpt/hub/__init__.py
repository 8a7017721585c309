"""Models of transformers and diffusers from their configurations, without weights."""
