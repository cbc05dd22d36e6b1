"""Fields: position -> density and features."""
