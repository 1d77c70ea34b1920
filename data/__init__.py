"""Lists that travel with the package: the scenes of every split. Data sets themselves stay outside."""
