"""Spans in and out: OTLP, our form and Jaeger's."""
