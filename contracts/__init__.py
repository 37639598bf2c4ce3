"""The law between the services: topics, messages, schemas, permits. It imports none of them."""
