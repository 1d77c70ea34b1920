"""From points and images to features."""
