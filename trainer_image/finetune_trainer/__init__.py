"""What runs in job pods: data preparation, training, export."""
