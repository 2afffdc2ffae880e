{{- define "finetune.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 52 | trimSuffix "-" }}
{{- else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 52 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "finetune.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}{{ .Values.serviceAccount.name | default (include "finetune.name" .) }}
{{- else }}{{ required "serviceAccount.name: set it, or let the chart create the account" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "finetune.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "finetune.labels" -}}
{{ include "finetune.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- /* Image of a block {repository, tag, digest}; called with the block and the root. */}}
{{- define "finetune.image" -}}
{{- $image := index . 0 }}{{- $root := index . 1 }}
{{- if $image.digest }}{{ $image.repository }}@{{ $image.digest }}
{{- else }}{{ $image.repository }}:{{ $image.tag | default $root.Chart.AppVersion }}
{{- end }}
{{- end }}

{{- /* The watched namespaces as JSON {"names": [...]}; empty = the whole cluster. */}}
{{- define "finetune.namespaces" -}}
{{- if eq .Values.scope "Cluster" }}
{{- if .Values.watchNamespaces }}{{ fail "watchNamespaces: does nothing with scope Cluster; remove it or set scope Namespaced" }}{{ end }}
{{- dict "names" list | toJson }}
{{- else }}{{ dict "names" (.Values.watchNamespaces | default (list .Release.Namespace)) | toJson }}
{{- end }}
{{- end }}

{{- /* The operator's settings file. */}}
{{- define "finetune.settings" -}}
{{- $own := dict
  "namespaces" (include "finetune.namespaces" . | fromJson).names
  "trainerImage" (include "finetune.image" (list .Values.trainer.image .))
  "imagePullPolicy" .Values.trainer.image.pullPolicy
  "leaseName" (include "finetune.name" .)
  "leaseNamespace" .Release.Namespace
  "healthPort" 8080 }}
{{- merge $own .Values.settings | toPrettyJson }}
{{- end }}
