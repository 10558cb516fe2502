"""What theory says about a point of a sweep, where it says anything."""
