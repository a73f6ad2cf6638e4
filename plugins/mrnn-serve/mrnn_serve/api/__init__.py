"""One module an API. Each reads a request, lets the service work, and words the answer."""
