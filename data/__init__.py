"""Lists that travel with the package: the scenes of every split. Data sets stay outside."""
