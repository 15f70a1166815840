"""The API described by itself: the models of its answers, OpenAPI, and a page to try it."""
