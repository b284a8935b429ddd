"""HTTP as the routes see it: the context of a request, its body, and the document of the API."""
