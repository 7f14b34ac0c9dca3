//! Custom resources and API aggregation. Nothing is here yet: the apiserver serves built-in resources only.
