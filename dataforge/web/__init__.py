"""The annotator: a server for one person on one machine, and its page. Needs the extra `web`."""
