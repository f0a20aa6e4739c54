"""Pictures of a run: views, reconstructions and attention."""
