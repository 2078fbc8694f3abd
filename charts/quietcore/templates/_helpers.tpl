{{- define "quietcore.labels" -}}
app.kubernetes.io/name: quietcore
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "quietcore.selector" -}}
app.kubernetes.io/name: quietcore
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "quietcore.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}
