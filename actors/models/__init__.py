"""What answers an agent: vLLM engines as actors, OpenAI-compatible servers, the bundled model."""
