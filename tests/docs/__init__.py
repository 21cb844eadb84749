"""Pages, site, pictures and figures of this repository."""
