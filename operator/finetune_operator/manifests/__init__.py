"""Builders of children: values in, manifests out, one file per child or part of a pod."""
