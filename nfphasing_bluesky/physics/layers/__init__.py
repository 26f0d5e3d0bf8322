"""Layer stacks: profiles, slopes, and what a reflectometer measures."""
