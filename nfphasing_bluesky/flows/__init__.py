"""Invertible transforms, conditional flows, context encoders. torch only."""
