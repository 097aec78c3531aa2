variable "project" {
  description = "The project's id"
  type        = string
}

variable "region" {
  description = "Where the bucket and the service are"
  type        = string
  default     = "europe-north1"
}

variable "bucket" {
  description = "The bucket's name; without it PROJECT-vectorpool"
  type        = string
  default     = ""
}

variable "image" {
  description = "The image, by its digest"
  type        = string
}

variable "min_instances" {
  description = "Instances that are always there; 0 saves their cost, and makes the first request wait for a start"
  type        = number
  default     = 1
}

variable "max_instances" {
  description = "Most instances"
  type        = number
  default     = 10
}

variable "settings" {
  description = "Further settings of docs/reference/settings.md, by variable"
  type        = map(string)
  default     = {}
}

variable "callers" {
  description = "IAM members that may call the service, such as serviceAccount:backend@PROJECT.iam.gserviceaccount.com"
  type        = list(string)
  default     = []
}

variable "github" {
  description = "OWNER/REPOSITORY whose environment `production` may deploy; empty is none"
  type        = string
  default     = ""
}
