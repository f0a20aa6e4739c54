"""Other people's formats of weights: how each is recognized and becomes our encoder, exactly."""
