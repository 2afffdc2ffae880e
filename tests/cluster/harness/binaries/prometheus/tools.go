//go:build tools

// Package tools pins Prometheus in go.mod: Debian's package finds no pods, its Kubernetes
// discovery is removed.
package tools

import (
	_ "github.com/prometheus/prometheus/cmd/prometheus"
	_ "github.com/prometheus/prometheus/cmd/promtool"
)
