"""Each target's real server and image: start, stop, hostile and idle clients, a real service."""
