"""Looking at what is published: a release as one page, and one user's vector as interests and months."""
