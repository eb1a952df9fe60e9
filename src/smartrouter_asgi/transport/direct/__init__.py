"""A lane of our own to HTTP/1.1 upstreams: asyncio protocols, and the parser that uvicorn uses.

It does what a gateway needs and no more: no HTTP/2, no proxies, no redirects, no decoding, no client certificates.
"""
