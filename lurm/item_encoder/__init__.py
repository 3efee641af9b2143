"""The item encoder: a title in, a unit vector out (paper section 3.1, equations 1 to 3); see `stage` for how the parts are put together."""
