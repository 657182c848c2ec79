variable "zone_id" {
  description = "Route 53 hosted zone of `domain`."
  type        = string
}

variable "domain" {
  description = "Name that agents send to, as in the cells."
  type        = string
}

variable "cells" {
  description = "The output `edge` of every cell, by the cell's name."
  type        = map(object({ dns_name = string, zone_id = string, health_check = string, region = string, jurisdiction = string }))
  validation {
    condition     = length(var.cells) > 0
    error_message = "cells: want one at least."
  }
}

variable "monthly_budget_usd" {
  description = "Limit of the account's bill. The owners hear at 80 % of it, and when AWS forecasts all of it."
  type        = number
  default     = 120000
  validation {
    condition     = var.monthly_budget_usd > 0
    error_message = "monthly_budget_usd: want more than 0."
  }
}

variable "owner_emails" {
  description = "Addresses that hear of the bill and of break-glass."
  type        = list(string)
  default     = []
}

variable "oncall_principals" {
  description = "ARNs that may take the role pulsegrid-oncall, with MFA: roles of IAM Identity Center. Empty: whoever has sts:AssumeRole on it in this account."
  type        = list(string)
  default     = []
}

variable "breakglass_principals" {
  description = "ARNs that may take the role pulsegrid-breakglass, with MFA. Empty: whoever has sts:AssumeRole on it in this account."
  type        = list(string)
  default     = []
}

variable "deletion_protection" {
  description = "Keeps the bucket of the trail from being destroyed with what is in it."
  type        = bool
  default     = true
}
