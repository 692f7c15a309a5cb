"""What tools/fetch.py is made of: the model hub, packages from pip and apt, and their conversion to model folders.
Nothing that training needs may live here: the core finds what was fetched by its own mooer_tk/models.py."""
