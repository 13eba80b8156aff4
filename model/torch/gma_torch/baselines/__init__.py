"""Other mixers in the place of GMA, for comparison: one a module, one interface (`mixer.Mixer`)."""
