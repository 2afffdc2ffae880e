"""One file per problem type: rows of a sample, forward of a micro-batch, metrics."""
