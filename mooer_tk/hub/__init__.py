"""Where models, sounds and sentences come from: the cache, the model hub and ordinary packages, checked by SHA-256.
No training code may live here, and nothing that reads a model's insides: conversion belongs to encoders/ and llm/."""
