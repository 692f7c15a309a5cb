"""What tools/fetch.py is made of: packages from pip and apt, pinned and checked, and their conversion to model folders.
Nothing that training needs may live here: the core finds what was fetched by its own mooer_tk/models.py."""
