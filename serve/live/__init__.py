"""What happens now, over SSE and WebSocket."""
