"""How features of several sensors meet."""
