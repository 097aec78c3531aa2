variable "region" {
  description = "Where everything is"
  type        = string
  default     = "eu-north-1"
}

variable "image" {
  description = "The image, by its digest"
  type        = string
}

variable "vpc" {
  description = "The network's id"
  type        = string
}

variable "subnets" {
  description = "Subnets of it, in two zones at least, from which S3 and the image's registry are reached"
  type        = list(string)
}

variable "certificate" {
  description = "ARN of the certificate of the name that callers use"
  type        = string
}

variable "bucket" {
  description = "The bucket's name; without it one is made of account and region"
  type        = string
  default     = ""
}

variable "prefix" {
  description = "Prefix of the service's objects in the bucket"
  type        = string
  default     = "vectorpool"
}

variable "instances" {
  description = "Least instances"
  type        = number
  default     = 2
}

variable "max_instances" {
  description = "Most instances"
  type        = number
  default     = 10
}

variable "internal" {
  description = "Whether the balancer has addresses of the network only"
  type        = bool
  default     = true
}

variable "public_addresses" {
  description = "Whether tasks have public addresses, which they need in public subnets without a NAT or endpoints"
  type        = bool
  default     = false
}

variable "callers" {
  description = "Networks that may call the balancer"
  type        = list(string)
  default     = ["10.0.0.0/8"]
}

variable "settings" {
  description = "Further settings of docs/reference/settings.md, by variable"
  type        = map(string)
  default     = {}
}
