"""The operator: observes three kinds, plans purely, applies children, reports one status."""
