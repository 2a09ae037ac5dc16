"""Measurements that the README quotes. What does not belong here: anything the product imports."""
