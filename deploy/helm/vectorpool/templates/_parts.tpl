{{- define "vectorpool.labels" -}}
app.kubernetes.io/name: vectorpool
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}
{{- define "vectorpool.chosen" -}}
app.kubernetes.io/name: vectorpool
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}
{{- define "vectorpool.account" -}}
{{ .Values.serviceAccount.name | default .Release.Name }}
{{- end }}
{{- define "vectorpool.image" -}}
{{ .Values.image.repository }}{{ if .Values.image.digest }}@{{ .Values.image.digest }}{{ else }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ end }}
{{- end }}
{{- define "vectorpool.container" -}}
image: {{ include "vectorpool.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
envFrom:
  - secretRef:
      name: {{ .Values.secretName }}
{{- end }}
{{- define "vectorpool.env" -}}
- name: VECTORPOOL_STORE
  value: {{ .Values.store | quote }}
{{- range $name, $value := .Values.env }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end }}
{{- define "vectorpool.pod" -}}
serviceAccountName: {{ include "vectorpool.account" . }}
# A service called vectorpool would give its pods variables named like settings.
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  seccompProfile:
    type: RuntimeDefault
{{- end }}
